"""Speech: the Small-E language model of codec tokens, and the codec that turns tokens into sound."""
