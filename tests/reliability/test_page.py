"""The page of what was survived is that of the kept results, and nothing in them failed."""

import json

from tests.reliability.page import KEPT, PAGE, rendered


def test_the_page_is_of_the_kept_results():
    kept = json.loads(KEPT.read_text())
    assert PAGE.read_text() == rendered(kept)
    assert all(each["survived"] == each["tried"] > 0 for each in kept["faults"])
    words = " ".join(each["fault"] for each in kept["faults"])
    for fault in ("SIGKILL at random moments", "power goes", "flips", "cut short", "gadgets", "malformed", "mutations"):
        assert fault in words
