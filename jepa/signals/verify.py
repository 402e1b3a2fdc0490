"""`jepa verify`: can this document be trusted, and does the video still say so?

Four steps, each of which works without the next:

1. the document alone: fields, invariants, hash chain, and the folder's chain file;
2. the policy, where it is at hand: spans, forecasts, breaks and decisions are worked out again from the scores;
3. the video: its hash, and the hash of every evidence frame;
4. the probes: every forecast is made again, at the moment when the last frame that it saw has been decoded and
   no later one has been asked for. Truncating the file there gives the same numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from jepa.data import LimitsConfig, open_video
from jepa.errors import UserError, VideoError
from jepa.files import sha256_file
from jepa.signals.audit import chain_faults, folder_faults
from jepa.signals.breaks import Sides
from jepa.signals.decide import decide
from jepa.signals.document import evidence_names
from jepa.signals.events import forecasts, observed_spans, replay, rounded
from jepa.signals.pipeline import DOCUMENT, POLICY_COPY, SUMMARY
from jepa.signals.policy import Policy, read_policy
from jepa.signals.scan import frame_sha256
from jepa.signals.schema import SignalsDocument, parse_document
from jepa.signals.scores import Scorer, Signal
from jepa.signals.windows import Window, WindowMaker
