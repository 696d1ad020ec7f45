"""`python -m train.main`: the training container's way in."""
