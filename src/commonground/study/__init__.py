"""What operator and participant agree on: offers, invitations, releases, and their signatures."""
