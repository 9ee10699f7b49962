"""`make chaos SEED=… MINUTES=…`: random changes and faults on a real stack, and then source = table or not."""
