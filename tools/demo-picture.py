#!/usr/bin/env python3
"""Makes docs/demo.svg from a run of the demo: demo-picture.py CAPTURE > docs/demo.svg (see CONTRIBUTING.md).

What is left out is marked by "…": steps that are not in SHOWN, the way of later steps' model calls, the middle of output,
and all that comes after the task's end.
"""
import html, re, sys

SHOWN = {1, 2, 4, 6, 7, 8}  # the steps to show
ROW, SIZE, LEFT, TOP, WIDTH = 18, 13, 14, 58, 840  # pixels
COLOURS = {"31": "#ff7b72", "32": "#7ee787", "33": "#e3b341", "34": "#79c0ff", "35": "#d2a8ff", "36": "#76e3ea"}
CUT = "\x1b[2m…\x1b[0m"


def plain(line):
    return re.sub(r"\x1b\[[0-9;]*m", "", line)


def read(path):
    text = open(path, encoding="utf-8").read().replace("\r\n", "\n")
    text = re.sub(r"\x1b\][^\x07]*\x07|\x1b\[\?\d*[hl]|\x1b\[\d*[A-DJK]", "", text)
    lines = text.split("\n")
    end = next(i for i, line in enumerate(lines) if re.match(r"completed\b", plain(line)))
    return lines[: end + 1]


def cut_output(lines):
    """Leaves out the middle of each run of output lines, whose mark is a bar."""
    out, run = [], []
    for line in lines + [""]:
        if plain(line).lstrip().startswith("│"):
            run.append(line)
            continue
        out += run if len(run) < 4 else [run[0], "       \x1b[2m│ …\x1b[0m", run[-1]]
        out, run = out + [line], []
    return out[:-1]


def choose(lines):
    starts = [i for i, line in enumerate(lines) if re.match(r" +\d+  asking the model", plain(line))]
    head = lines[: starts[0]]
    out = [line for line in head if plain(line).lstrip().startswith("✓")] + [""]
    task = next(i for i, line in enumerate(head) if plain(line).strip() == "Task")
    out += head[task : next(i for i in range(task, len(head)) if not plain(head[i]).strip())] + ["", f"  {CUT}", ""]
    for number, (start, end) in enumerate(zip(starts, starts[1:] + [len(lines)]), 1):
        step = lines[start:end]
        if number not in SHOWN:
            step = [f"  {CUT}", ""]
        elif number > 1:  # the model's call goes the same way in every step: shown once
            answered = next(i for i, line in enumerate(step) if " answered in " in plain(line))
            step = [f"{step[0]} {CUT}"] + step[answered + 1 :]
        out += cut_output(step)
    return out


def spans(line):
    out, fill, bold = "", None, False
    for part in re.split(r"(\x1b\[[0-9;]*m)", line):
        if codes := re.fullmatch(r"\x1b\[([0-9;]*)m", part):
            for code in codes[1].split(";"):
                fill = None if code in ("", "0", "39") else "#8b949e" if code == "2" else COLOURS.get(code, fill)
                bold = code == "1" or bold and code not in ("", "0", "22")
        elif part:
            style = (f' fill="{fill}"' if fill else "") + (' font-weight="bold"' if bold else "")
            out += f"<tspan{style}>{html.escape(part, quote=False)}</tspan>"
    return out


texts, y = [], TOP
for row in choose(read(sys.argv[1])):
    if plain(row).strip():
        texts.append(f'<text x="{LEFT}" y="{y}" xml:space="preserve">{spans(row)}</text>')
    y += ROW if plain(row).strip() else ROW // 2
print(f'''<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" viewBox="0 0 {WIDTH} {y}" font-size="{SIZE}" \
font-family="ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace" fill="#c9d1d9">
<title>freehold demo: an agent writes a program, sees it fail, mends it, calls an allowed service and is denied another</title>
<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{y - 1}" rx="9" fill="#0d1117" stroke="#30363d"/>
<text x="{LEFT}" y="28" xml:space="preserve"><tspan fill="#8b949e">$</tspan> freehold demo --exit</text>''')
print("\n".join(texts), "</svg>", sep="\n")
