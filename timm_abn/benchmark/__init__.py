"""What a network costs: time, memory and arithmetic, beside a baseline and beside what the machine can do."""
