/**
 * A part of a log that somebody wants to see: chosen by the node that has the log, so that only that
 * part travels. The offset at which reading begins comes first, then each of these in this order.
 */
import { z } from 'zod'
import { text } from './names.ts'

export const TAIL_LINES_MAX = 100_000
export const PATTERN_CHARS_MAX = 1_000

export const LogView = z.object({
  /** Only records of these streams. */
  streams: z
    .array(z.enum(['stdout', 'stderr', 'mesh']))
    .max(3)
    .optional(),
  /** Only what was read so long after the build had begun, or later: milliseconds. */
  sinceMs: z.int().min(0).optional(),
  /** Only lines that this expression (ECMAScript) is found in, colours and other escapes left out. */
  grep: text(PATTERN_CHARS_MAX).optional(),
  ignoreCase: z.boolean().optional(),
  /** Of what there is when reading begins, only the last lines; then all that follows. */
  tail: z.int().min(1).max(TAIL_LINES_MAX).optional(),
})
export type LogView = z.infer<typeof LogView>

/** Why the expression cannot be used; undefined where it can. */
export function patternProblem(pattern: string): string | undefined {
  if (pattern.length > PATTERN_CHARS_MAX) return `it is longer than ${PATTERN_CHARS_MAX} characters`
  try {
    return new RegExp(pattern) instanceof RegExp ? undefined : 'it is no expression'
  } catch (error) {
    return error instanceof SyntaxError ? error.message : String(error)
  }
}
