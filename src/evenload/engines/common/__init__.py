"""What the plug-ins share: their knobs, the plan, the self-test, and how ranks compare plans."""
