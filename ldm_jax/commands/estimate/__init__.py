"""What training an experiment would cost on a machine that is not there."""
