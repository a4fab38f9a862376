"""Trainers on this machine."""
