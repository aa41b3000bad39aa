"""What is written in C, for the CPU."""
