"""What both runners of a CPU program share: memory, attention, the head's rows, lanes."""
