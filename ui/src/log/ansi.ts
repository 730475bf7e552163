// A line of a log as a terminal shows it, with its colours and links, as elements.
import Anser from "anser";
import { css, html, nothing, type TemplateResult } from "lit";
import { classMap } from "lit/directives/class-map.js";
import { drawLine, hasControls, type Segment } from "./terminal";

const NAMED = /^ansi-(bright-)?(black|red|green|yellow|blue|magenta|cyan|white)$/;

export const ansiStyles = css`
  .bold {
    font-weight: 700;
  }
  .dim {
    opacity: 0.75;
  }
  .italic {
    font-style: italic;
  }
  .underline {
    text-decoration: underline;
  }
  .ansi-red, .ansi-bright-red { color: light-dark(#b02a37, #ff8a94); }
  .ansi-green, .ansi-bright-green { color: light-dark(#146c43, #7ad1a2); }
  .ansi-yellow, .ansi-bright-yellow { color: light-dark(#7a5c00, #ffd75e); }
  .ansi-blue, .ansi-bright-blue { color: light-dark(#0a58ca, #7fb3ff); }
  .ansi-magenta, .ansi-bright-magenta { color: light-dark(#8a2a86, #f29bee); }
  .ansi-cyan, .ansi-bright-cyan { color: light-dark(#0b6473, #6edff6); }
  .ansi-bright-black { color: var(--kb-quiet); }
`;

export function renderLine(text: string): TemplateResult | string | typeof nothing {
  if (!text) return nothing;
  if (!hasControls(text)) return text;
  const parts: { link: string; segments: Segment[] }[] = [];
  for (const segment of drawLine(text)) {
    const last = parts.at(-1);
    if (last?.link === segment.link) last.segments.push(segment);
    else parts.push({ link: segment.link, segments: [segment] });
  }
  return html`${parts.map(({ link, segments }) => {
    const shown = segments.map((segment) => (segment.style ? renderColours(segment) : segment.text));
    const target = toSafeUrl(link);
    if (!target) return shown;
    return html`<a href=${target} target="_blank" rel="noopener noreferrer">${shown}</a>`;
  })}`;
}

/** Return where a link leads, or nothing: what a job writes may not make the page run anything. */
function toSafeUrl(link: string): string {
  const url = URL.canParse(link) ? new URL(link) : null;
  return url && ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : "";
}

function renderColours(segment: Segment): TemplateResult {
  const text = `\u001b[${segment.style}m${segment.text}`;
  const pieces = Anser.ansiToJson(text, { use_classes: true, json: true, remove_empty: true });
  return html`${pieces.map((piece) => {
    const classes: Record<string, boolean> = {};
    for (const each of piece.decorations ?? []) classes[each] = true;
    if (piece.fg && NAMED.test(piece.fg)) classes[piece.fg] = true;
    const color =
      piece.fg === "ansi-truecolor" && piece.fg_truecolor ? `rgb(${piece.fg_truecolor})` : palette(piece.fg);
    return html`<span class=${classMap(classes)} .style=${color ? `color: ${color}` : ""}>${piece.content}</span>`;
  })}`;
}

/** Return the colour of xterm's palette, beyond the sixteen that have names. */
function palette(name: string | null): string {
  const match = /^ansi-palette-(\d+)$/.exec(name ?? "");
  if (!match) return "";
  const number = Number(match[1]);
  if (number >= 232)
    return `rgb(${Array(3)
      .fill(8 + 10 * (number - 232))
      .join()})`;
  const level = (value: number) => (value ? 55 + 40 * value : 0);
  const at = number - 16;
  return `rgb(${level(Math.floor(at / 36))}, ${level(Math.floor(at / 6) % 6)}, ${level(at % 6)})`;
}
