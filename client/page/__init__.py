"""The participant's page: what a person sees of her own device, in her own browser."""
