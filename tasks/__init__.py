"""What the flows do: pure functions over arrays, modules and small frozen records. Nothing here imports flows."""
