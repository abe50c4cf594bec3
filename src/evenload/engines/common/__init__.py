"""What several engines share: reading their archives, and what the plug-ins plan and agree by."""
