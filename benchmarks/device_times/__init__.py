"""Whether a device that was calibrated predicts how long its heads take."""
