"""The serving gateway, as seen from the assets."""

import dagster as dg

from flywheel_serving.client import ServingClient


class Serving(dg.ConfigurableResource):
    """Where the gateway is and where its prediction log lies."""

    url: str
    spool: str
    admin_token: str | None = None

    @property
    def client(self) -> ServingClient:
        """A client of the gateway."""
        return ServingClient(self.url, self.admin_token)
