import "vt"

rule example_dropper {
  strings:
    $a = "example dropper" ascii
  condition:
    $a and vt.metadata.new_file
}
