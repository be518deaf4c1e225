"""What can go wrong in steering, for a user to read and act on."""


class SteeringError(Exception):
    """Steering was refused, or was installed and proved to do nothing; the message says which."""
