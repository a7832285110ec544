"""Pictures: decoding, buckets, crops, latents and contact sheets."""
