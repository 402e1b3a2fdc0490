"""Ad breaks on videos with speech: how many fall inside a spoken sentence, with and without the factors of sound.

    python benchmarks/speech_breaks.py breaks FOLDER_OF_VIDEOS OUT.json [--videos 30]
    python benchmarks/speech_breaks.py vad OUT.json [--audio FOLDER_OF_VIDEOS]
    python benchmarks/speech_breaks.py cost OUT.json

Each video is cut from natural clips at times that are known, half of them inside a sentence and half in a pause; the
sentences are spoken by espeak-ng over noise or music, so their times are known too. Everything follows from the seed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import wavfile

from jepa.data import open_video
from jepa.data.video.audio import AudioBlock, AudioSpec, open_audio
from jepa.errors import UserError
from jepa.signals import Analyser
from jepa.signals.decide.breaks import BreakContext, choose, score_candidate
from jepa.signals.detect.audio import LoudnessDetector, SpeechDetector
from jepa.signals.document.objects import SignalsDocument
from jepa.signals.policy import Policy

RATE, FPS, CLIP_S = 16_000, 12.5, 24.0
SOUND = ("silence", "speech_across", "speech_before")
VOICES = (
    "en-us",
    "en-us+f2",
    "en-gb",
    "en-gb+f4",
    "en-gb-scotland+m3",
    "en-us+m7",
    "en-gb-x-rp+f1",
    "de",
    "fr+f5",
    "es",
)
BACKGROUNDS = (("none", 0.0), ("noise", 20.0), ("noise", 10.0), ("music", 15.0), ("music", 5.0))
SENTENCES = {
    "en": (
        "The harbour was quiet when the first boats came back.",
        "She had not expected anyone to be waiting, and yet the lights were on.",
        "Nobody knows who built the wall.",
        "If the wind turns, we will have to leave before noon, whatever the others say.",
        "Take two cups of flour, a pinch of salt, and a little water.",
        "It rained.",
        "The second half was better than the first, although the score did not change.",
        "He looked at the map for a long time, folded it, and put it away.",
        "Last year the same field gave twice as much.",
        "What happened next surprised even those who had planned it.",
        "Please keep to the left.",
        "In the north the snow stays until May; in the south it is gone by March.",
    ),
    "de": (
        "Der Zug kommt heute wieder einmal zu spät, und niemand sagt, warum.",
        "Am Abend saßen sie am Fluss und redeten über das, was gewesen war.",
        "Das war alles.",
        "Wer den Weg kennt, braucht keine Karte.",
    ),
    "fr": (
        "La maison au bord de la route est vide depuis longtemps.",
        "On ne sait pas encore, mais on espère que tout ira bien.",
        "Il pleut toujours.",
        "Au marché, les gens parlent fort et rient beaucoup.",
    ),
    "es": (
        "El camino sube despacio hasta la iglesia vieja.",
        "Nadie contestó, aunque todos habían oído la pregunta.",
        "Mañana será otro día.",
        "Con el primer sol, los pescadores vuelven al puerto.",
    ),
}


def speak(text: str, voice: str, words_per_minute: int, folder: Path) -> np.ndarray:
    """One sentence, float [N] at 16 kHz, without the silence that espeak-ng puts around it."""
    path = folder / "sentence.wav"
    subprocess.run(["espeak-ng", "-v", voice, "-s", str(words_per_minute), "-w", path, text], check=True)
    rate, samples = wavfile.read(path)
    wave = samples.astype(np.float64) / 32768
    positions = np.arange(0, len(wave) - 1, rate / RATE)
    wave = np.interp(positions, np.arange(len(wave)), wave)
    loud = np.flatnonzero(np.abs(wave) > 0.01 * np.abs(wave).max())
    return wave[loud[0] : loud[-1] + 1]


def background(kind: str, count: int, rng: np.random.Generator) -> np.ndarray:
    """Noise (pink) or music (chords with drums) of RMS 1, float [count]."""
    if kind == "none":
        return np.zeros(count)
    if kind == "noise":
        spectrum = np.fft.rfft(rng.standard_normal(count))
        spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
        spectrum[0] = 0
        wave = np.fft.irfft(spectrum, count)
        return wave / wave.std()
    times, wave = np.arange(count) / RATE, np.zeros(count)
    beat = rng.uniform(0.4, 0.7)
    for number in range(int(count / RATE / beat)):
        first = int(number * beat * RATE)
        length = min(int(1.5 * beat * RATE), count - first)
        at = times[:length]
        root = 110 * 2 ** (rng.choice([0, 3, 5, 7, 8, 10]) / 12)
        for step in (0, 4, 7, 12):
            tone = root * 2 ** (step / 12)
            for harmonic in range(1, 6):
                wave[first : first + length] += (
                    np.sin(2 * np.pi * tone * harmonic * at) / harmonic**1.5 * np.exp(-3 * at)
                )
        hit = np.exp(-40 * at) * rng.standard_normal(length)
        wave[first : first + length] += 2 * hit
    return wave / wave.std()


def soundtrack(
    seconds: float, kind: str, snr_db: float, rng: np.random.Generator
) -> tuple[np.ndarray, list[list[float]]]:
    """(float [N] at 16 kHz, sentences as [start, end] in seconds): sentences, pauses of 0.4 to 3 s, a background.

    `snr_db` compares the power while somebody speaks with that of the background.
    """
    wave, spoken, at = np.zeros(int(seconds * RATE)), [], rng.uniform(0.5, 1.5)
    voice = VOICES[rng.integers(len(VOICES))]
    lines = SENTENCES[voice[:2]]
    speed = int(rng.integers(120, 200))
    with tempfile.TemporaryDirectory() as folder:
        while True:
            sentence = speak(lines[rng.integers(len(lines))], voice, speed, Path(folder))
            first = int(at * RATE)
            if first + len(sentence) > len(wave) - RATE:
                break
            wave[first : first + len(sentence)] = 0.5 * sentence / np.abs(sentence).max()
            spoken.append([first / RATE, (first + len(sentence)) / RATE])
            at = spoken[-1][1] + float(np.clip(rng.lognormal(-0.1, 0.6), 0.4, 3.0))
    active = np.concatenate([wave[int(a * RATE) : int(b * RATE)] for a, b in spoken])
    noise = background(kind, len(wave), rng) * active.std() / 10 ** (snr_db / 20)
    return np.clip(wave + noise, -1, 1), spoken


def cut_times(spoken: list[list[float]], seconds: float, rng: np.random.Generator) -> list[float]:
    """Times of cuts, 3 to 9 s apart: with equal chance the middle part of a sentence, or the middle of a pause."""
    pauses = [[a[1], b[0]] for a, b in itertools.pairwise(spoken)]
    found, at = [], 0.0
    while True:
        low, high = at + 3, at + 9
        inside = rng.random() < 0.5
        options = []
        for start, end in spoken if inside else pauses:
            part = 0.2 if inside else 0.4
            where = rng.uniform(start + part * (end - start), end - part * (end - start))
            if low <= where <= high:
                options.append(where)
        where = options[rng.integers(len(options))] if options else rng.uniform(low, high)
        if where > seconds - 2:
            return found
        found.append(round(where * FPS) / FPS)
        at = found[-1]


def prepare(clips: list[Path], folder: Path) -> list[Path]:
    """The clips at 320x180 and 12.5 fps, looped to one length, of key frames only, so that they can be cut anywhere."""
    made = []
    folder.mkdir(exist_ok=True)
    for clip in clips:
        made.append(folder / f"{clip.stem}.mp4")
        if made[-1].is_file():
            continue
        command = [
            "ffmpeg", "-v", "error", "-y", "-stream_loop", "-1", "-i", clip, "-an", "-vf",
            f"fps={FPS},scale=320:180:force_original_aspect_ratio=increase,crop=320:180,setsar=1", "-t", str(CLIP_S),
            "-c:v", "libx264", "-preset", "ultrafast", "-g", "1", "-crf", "26", "-pix_fmt", "yuv420p", made[-1],
        ]  # fmt: skip
        subprocess.run(command, check=True)
    return made


def make_video(clips: list[Path], number: int, folder: Path) -> tuple[Path, dict[str, Any]]:
    """Video `number` of 80 s, cut from prepared clips, and its truth."""
    rng = np.random.default_rng([17, number])
    seconds, (kind, snr_db) = 80.0, BACKGROUNDS[number % len(BACKGROUNDS)]
    wave, spoken = soundtrack(seconds, kind, snr_db, rng)
    cuts = cut_times(spoken, seconds, rng)
    lines, previous = [], -1
    for start, end in zip([0.0, *cuts], [*cuts, seconds], strict=True):
        which = int(rng.choice([i for i in range(len(clips)) if i != previous]))
        previous, first = which, rng.uniform(0, CLIP_S - (end - start))
        lines.append(f"file '{clips[which]}'\ninpoint {first:.3f}\noutpoint {first + end - start:.3f}\n")
    (folder / "list.txt").write_text("".join(lines))
    wavfile.write(folder / "sound.wav", RATE, (wave * 32767).astype(np.int16))
    silent, path = folder / "silent.mp4", folder / f"video{number}.mp4"
    ffmpeg = ["ffmpeg", "-v", "error", "-y"]
    joined = ["-f", "concat", "-safe", "0", "-i", folder / "list.txt", "-c", "copy", silent]
    subprocess.run([*ffmpeg, *joined], check=True)
    # In a second step, because the joined parts start later than 0, which only reading them as a file takes away.
    sound = [
        "-i",
        folder / "sound.wav",
        "-map",
        "0:v",
        "-map",
        "1:a",
        "-c:v",
        "copy",
        "-c:a",
        "aac",
        "-ar",
        "48000",
    ]
    subprocess.run([*ffmpeg, "-i", silent, *sound, path], check=True)
    with open_video(path) as video:
        # The document's times start at the first frame.
        spoken = [[start - video.start_s, end - video.start_s] for start, end in spoken]
    truth = {"number": number, "background": kind, "snr_db": snr_db, "sentences": spoken, "cuts": cuts}
    return path, truth


def inside(at_s: float, spoken: list[list[float]]) -> bool:
    return any(start < at_s < end for start, end in spoken)


def rankings(
    document: SignalsDocument, policy: Policy, causal: bool
) -> tuple[list[int], np.ndarray, np.ndarray]:
    """(times in ms, scores with sound, scores without) of all candidates."""
    context = BreakContext(policy, document.tracks, causal)
    times = [item.at_ms for item in document.ads.breaks]
    with_sound, without = [], []
    for item in document.ads.breaks:
        made = score_candidate(
            policy, context, document.timeline, item.at_ms, item.at_frame, item.boundary_types, []
        )
        with_sound.append(made.score)
        without.append(sum(factor.part for factor in made.factors if factor.name not in SOUND))
    return times, np.array(with_sound), np.array(without)


def judge(document: SignalsDocument, truth: dict[str, Any], policy: Policy) -> dict[str, Any]:
    """Breaks inside a sentence and in all: those that the policy accepts, and the best k of either ranking."""
    rule, spoken = policy.breaks, truth["sentences"]
    found: dict[str, Any] = {key: truth[key] for key in ("number", "background", "snr_db")}
    found["cuts"], found["cuts_inside"] = len(truth["cuts"]), sum(inside(at, spoken) for at in truth["cuts"])
    for mode in ("look-ahead", "causal"):
        times, with_sound, without = rankings(document, policy, mode == "causal")

        def picks(scores: np.ndarray, least: float, most: int, times: list[int] = times) -> list[int]:
            free = [i for i in range(len(times)) if scores[i] >= least]
            # As decide does: shifted, so that a candidate at the policy's floor counts for something.
            shift = 1e-6 - min(0.0, least)
            taken = choose([times[i] for i in free], [scores[i] + shift for i in free], rule.min_gap_ms, most)
            return [times[free[i]] for i in taken]

        accepted = picks(with_sound, rule.min_score, rule.max_breaks)
        groups = {
            "with": accepted,
            "without": picks(without, rule.min_score, rule.max_breaks),
            # The same number of breaks, from the ranking that does not hear; scores may be anything.
            "without, as many": picks(without, -10.0, len(accepted)),
            "with, 4": picks(with_sound, -10.0, 4),
            "without, 4": picks(without, -10.0, 4),
        }
        found[mode] = {
            name: [sum(inside(at / 1000, spoken) for at in group), len(group)]
            for name, group in groups.items()
        }
    return found


def interval(pairs: list[list[int]], seed: int = 0) -> tuple[float, float, float]:
    """Fraction over all videos with its 95 % bootstrap interval over videos."""
    counts, rng = np.array(pairs, dtype=float), np.random.default_rng(seed)
    draws = rng.integers(0, len(counts), (4000, len(counts)))
    sums = counts[draws].sum(axis=1)
    low, high = np.percentile(sums[:, 0] / np.maximum(sums[:, 1], 1), [2.5, 97.5])
    return counts[:, 0].sum() / max(1, counts[:, 1].sum()), low, high


def run_breaks(data: str, out: str, videos: int, first: int, join: list[str]) -> None:
    clips = sorted(path for path in Path(data).iterdir() if path.suffix in (".mp4", ".mkv", ".webm"))
    if not clips:
        raise UserError(f"{data} holds no video. Give a folder of clips.")
    policy = Policy.model_validate({"policy": "bench", "version": "1", "about": "the default weights"})
    analyser = Analyser([LoudnessDetector(), SpeechDetector()], policy, causal=False)
    rows: list[dict[str, Any]] = [row for name in join for row in json.loads(Path(name).read_text())]
    prepared = prepare(clips, Path(out).resolve().parent / "prepared")
    with tempfile.TemporaryDirectory() as folder:
        for number in range(first, first + videos):
            path, truth = make_video(prepared, number, Path(folder))
            rows.append(judge(analyser.run(path).document, truth, policy))
            print(json.dumps(rows[-1]), file=sys.stderr)
            Path(out).write_text(json.dumps(rows, indent=1))
    report(rows)


def report(rows: list[dict[str, Any]]) -> None:
    cuts, cut_inside = sum(row["cuts"] for row in rows), sum(row["cuts_inside"] for row in rows)
    print(f"{len(rows)} videos, {cuts} cuts, {cut_inside / cuts:.3f} of them inside a sentence")
    for mode in ("look-ahead", "causal"):
        for name in rows[0][mode]:
            rate, low, high = interval([row[mode][name] for row in rows])
            total = sum(row[mode][name][1] for row in rows)
            print(f"{mode:10} {name:18} {rate:.3f} [{low:.3f}, {high:.3f}] of {total} breaks")


def speech_of(wave: np.ndarray) -> list[tuple[int, int]]:
    """Stretches of speech in samples float [N] at 16 kHz, in milliseconds."""
    listener = SpeechDetector().listen()
    for first in range(0, len(wave), RATE):
        block = wave[first : first + RATE].astype(np.float32)[None]
        listener.push(AudioBlock(first / RATE, block, AudioSpec(RATE), "mono", "sound"))
    heard = listener.finish(round(1000 * len(wave) / RATE))
    return [(item.start_ms, item.end_ms) for item in heard.speech or []]


def as_mask(stretches: Any, count: int) -> np.ndarray:
    """Bool [count], a value for each 10 ms."""
    mask = np.zeros(count, bool)
    for start, end in stretches:
        mask[round(start / 10) : round(end / 10)] = True
    return mask


def run_vad(out: str, audio: str | None) -> None:
    rows: list[dict[str, Any]] = []
    for kind, snr_db in (("none", 0), *((k, s) for k in ("noise", "music") for s in (20, 10, 5, 0, -5))):
        scores = []
        for number in range(6):
            wave, spoken = soundtrack(60.0, kind, snr_db, np.random.default_rng([23, number]))
            truth = as_mask([(a * 1000, b * 1000) for a, b in spoken], 6000)
            found = as_mask(speech_of(wave), 6000)
            hit = (truth & found).sum()
            scores.append([hit / max(1, found.sum()), hit / truth.sum()])
        mean, std = np.mean(scores, axis=0), np.std(scores, axis=0)
        rows.append(
            {
                "background": kind,
                "snr_db": snr_db,
                "precision": mean[0],
                "recall": mean[1],
                "std": std.tolist(),
            }
        )
        print(
            f"{kind:6} {snr_db:4} dB  precision {mean[0]:.3f} +- {std[0]:.3f}  recall {mean[1]:.3f} +- {std[1]:.3f}"
        )
    rng, times = np.random.default_rng(5), np.arange(120 * RATE) / RATE
    others = {
        "white noise": 0.1 * rng.standard_normal(len(times)),
        "pink noise": 0.1 * background("noise", len(times), rng),
        "music": 0.1 * background("music", len(times), rng),
        "440 Hz tone": 0.3 * np.sin(2 * np.pi * 440 * times),
        "sweep 50-4000 Hz": 0.3 * np.sin(2 * np.pi * (50 * times + 3950 * times**2 / 240)),
        "silence": np.zeros(len(times)),
    }
    for name, wave in others.items():
        seconds = sum(b - a for a, b in speech_of(wave)) / 1000
        rows.append({"non-speech": name, "speech_s": seconds, "of_s": 120})
        print(f"{name}: speech {seconds:.2f} s of 120 s")
    for path in sorted(Path(audio).iterdir()) if audio else []:
        with open_audio(path) as reader:
            blocks = [block.samples[0] for block in reader]
        if blocks:
            wave = np.concatenate(blocks)
            rows.append({"file": path.name, "of_s": len(wave) / RATE, "speech_ms": speech_of(wave)})
            print(f"{path.name}: {len(wave) / RATE:.1f} s, speech at {rows[-1]['speech_ms']} ms")
    Path(out).write_text(json.dumps(rows, indent=1))


def run_cost(out: str) -> None:
    """Real-time factor and memory of both detectors over an hour of stereo at 48 kHz, read from an AAC file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "hour.mkv"
        wave, _ = soundtrack(60.0, "music", 15.0, np.random.default_rng(3))
        wavfile.write(Path(folder) / "minute.wav", RATE, (wave * 32767).astype(np.int16))
        command = [
            "ffmpeg", "-v", "error", "-f", "lavfi", "-i", "color=size=16x16:rate=1:duration=3600", "-stream_loop", "59",
            "-i", Path(folder) / "minute.wav", "-c:v", "libx264", "-c:a", "aac", "-ar", "48000", "-ac", "2", path,
        ]  # fmt: skip
        subprocess.run(command, check=True)
        rows: dict[str, Any] = {"machine": platform.machine()}
        for name, kind in (("speech", SpeechDetector), ("loudness", LoudnessDetector)):
            detector: Any = kind()
            audio = detector.metadata.audio
            listener, memory, begin, spent = detector.listen(), [], time.process_time(), 0.0
            with open_audio(path, AudioSpec(audio.sample_rate, audio.mono)) as reader:
                for block in reader:
                    before = time.process_time()
                    listener.push(block)
                    listener.score(round(block.end_s * 1000))
                    spent += time.process_time() - before
                    if block.end_s // 600 > len(memory) - 1:
                        memory.append(_resident_mb())
            total = time.process_time() - begin
            listener.finish(3_600_000)
            rows[name] = {"detector": spent / 3600, "decode": (total - spent) / 3600, "resident_mb": memory}
            print(
                f"{name}: {spent / 3600:.4f} of real time, reading {(total - spent) / 3600:.4f}; MB {memory}"
            )
        rows["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        Path(out).write_text(json.dumps(rows, indent=1))


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * resource.getpagesize() / 2**20, 1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    modes = parser.add_subparsers(dest="what", required=True)
    breaks, vad, cost = (modes.add_parser(name) for name in ("breaks", "vad", "cost"))
    breaks.add_argument("data")
    breaks.add_argument("--videos", type=int, default=30)
    breaks.add_argument(
        "--first", type=int, default=0, help="number of the first, to share the work between runs"
    )
    breaks.add_argument("--join", nargs="*", default=[], help="outputs of other runs, to report on together")
    vad.add_argument("--audio")
    for mode in (breaks, vad, cost):
        mode.add_argument("out")
    given = parser.parse_args()
    if given.what == "breaks":
        run_breaks(given.data, given.out, given.videos, given.first, given.join)
    elif given.what == "vad":
        run_vad(given.out, given.audio)
    else:
        run_cost(given.out)


if __name__ == "__main__":
    main()
