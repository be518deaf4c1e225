"""The errors of steering, written for the user to act on."""


class SteeringError(Exception):
    """A refusal to steer; the message says why and what to do instead."""


class NoRouterError(SteeringError):
    """A refusal to steer a model that has no router."""


class ProbeError(SteeringError):
    """A failed probe: steering is installed and does not have its declared effect."""
