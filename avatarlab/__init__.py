"""Avatar Lab: talking lecture videos from scripts.

The alphabet of shapes used in every signature:

    b  batch            t  codec language-model steps      q  codebooks
    j  text units       f  video frames                    s  audio samples
    d  network width    h, w  pixel rows and columns       r  reference latents

The table of clocks, for the bundled models (one video frame is the unit everything divides into):

    one video frame  = 1/25 s = 640 samples at 16 kHz = 1 language-model step (two codes of 20 ms)
                     = 2 audio-feature frames of 50 Hz
"""

FPS = 25
SAMPLE_RATE_HZ = 16_000
SAMPLES_PER_VIDEO_FRAME = SAMPLE_RATE_HZ // FPS
AUDIO_FEATURE_HZ = 50
