"""What can go wrong in steering, for a user to read and act on."""


class SteeringError(Exception):
    """Steering was refused; the message says why and what to do instead."""


class ProbeError(SteeringError):
    """A probe failed: steering is installed and does not do what it says."""
