"""What the participant's page and the operator's console share: who may ask, how they look, safe text."""
