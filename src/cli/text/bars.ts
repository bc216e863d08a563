/** Quantities as a few characters: a bar of how full something is, and a line of what it was lately. */
import type { Style } from './style.ts'

/** `width` characters, of which the share `part / whole` is filled; what is above nothing shows at least one. */
export function bar(style: Style, part: number, whole: number, width: number): string {
  const share = whole > 0 ? Math.min(1, Math.max(0, part / whole)) : 0
  const filled = share === 0 ? 0 : Math.max(1, Math.round(share * width))
  const [full, empty] = style.unicode ? ['█', '░'] : ['#', '.']
  return full.repeat(filled) + empty.repeat(width - filled)
}

/** One character a step, each of one code unit. */
const STEPS = { unicode: '▁▂▃▄▅▆▇█', ascii: '_.-:=+*#' } as const

/** One character per sample, the newest last, against a scale from 0 to `top`. */
export function sparkline(style: Style, samples: readonly number[], top: number): string {
  const steps = style.unicode ? STEPS.unicode : STEPS.ascii
  return samples
    .map((sample) => {
      const share = top > 0 ? Math.min(1, Math.max(0, sample / top)) : 0
      return steps[Math.round(share * (steps.length - 1))] ?? ''
    })
    .join('')
}
