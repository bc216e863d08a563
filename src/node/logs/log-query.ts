/** The query of `GET /api/jobs/ID/log`, checked. */
import { z } from 'zod'
import { MeshError } from '../../base/errors.ts'
import { LogView, PATTERN_CHARS_MAX, patternProblem, TAIL_LINES_MAX } from '../../wire/log-view.ts'
import { AttemptId } from '../../wire/names.ts'

const whole = z.string().regex(/^\d{1,15}$/, 'expected a whole number')

const LogQuery = z.object({
  /** Number or id; the last one. */
  attempt: z.union([whole, AttemptId]).default('0'),
  offset: whole.default('0'),
  follow: z.string().optional(),
  /** Several with commas. */
  stream: z.string().max(100).optional(),
  since: whole.optional(),
  tail: whole.optional(),
  grep: z.string().max(PATTERN_CHARS_MAX).optional(),
  ignoreCase: z.string().optional(),
})

export interface LogQuestion {
  readonly attempt: string
  readonly offsetBytes: number
  readonly follow: boolean
  readonly view: LogView
}

/** Throws MESH0210 naming the parameter. */
export function parseLogQuery(query: unknown): LogQuestion {
  const parsed = LogQuery.safeParse(query)
  if (!parsed.success) throw refused(parsed.error)
  const { attempt, offset, follow, stream, since, tail, grep, ignoreCase } = parsed.data
  const problem = grep === undefined ? undefined : patternProblem(grep)
  if (problem !== undefined)
    throw new MeshError('MESH0210', `grep: ${JSON.stringify(grep)} is no expression: ${problem}`)
  const view = LogView.safeParse({
    ...(stream === undefined ? {} : { streams: stream.split(',') }),
    ...(since === undefined ? {} : { sinceMs: Number(since) }),
    ...(grep === undefined ? {} : { grep }),
    ...(ignoreCase === '1' ? { ignoreCase: true } : {}),
    ...(tail === undefined ? {} : { tail: Number(tail) }),
  })
  if (!view.success) throw refused(view.error)
  return { attempt, offsetBytes: Number(offset), follow: follow === '1', view: view.data }
}

function refused(error: z.ZodError): MeshError {
  const [issue] = error.issues
  const hint = `streams are stdout, stderr and mesh; tail is from 1 to ${TAIL_LINES_MAX}`
  return new MeshError('MESH0210', `${issue?.path.join('.')}: ${issue?.message}`, { hints: [hint] })
}
