// Compiled only for the precompiled header that comes with it.
