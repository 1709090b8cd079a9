rule example_stealer {
  strings:
    $a = "example stealer" ascii
  condition:
    $a
}
