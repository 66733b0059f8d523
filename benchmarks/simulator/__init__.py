"""Many devices and one server, simulated: who serves their requests best, by the price model, on links that fade.

The paper's three modules: what is run on either side (:mod:`.execution`), what crosses the channel (:mod:`.channel`),
and what comes of it (:mod:`.performance`); :mod:`.simulation` plays them against each other, event by event.
"""
