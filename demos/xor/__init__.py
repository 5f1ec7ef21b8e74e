"""XOR from random weights by evolution: the smallest complete program. No gradients."""
