"""Text to word pieces: vocabulary training and loading, sentence splitting."""
