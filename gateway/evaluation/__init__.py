"""Trying the router on labelled questions: `questions` reads them, `folder` asks it of a folder without a gateway, `report` shows."""
