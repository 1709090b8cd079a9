rule example_loader {
  strings:
    $a = "example loader" ascii wide
    $b = "example loader v2" ascii wide
  condition:
    any of them
}
