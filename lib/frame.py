"""x."""
# vendor:begin
# vendor:end
