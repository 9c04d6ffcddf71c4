"""Ahead-of-time compilation of the training program for absent hardware."""
