/**
 * What a build's first process is to those who wait for it, whether there are walls around it
 * (sealed-process.ts) or not (plain-process.ts).
 */
import type { ChildProcess } from 'node:child_process'
import { hasCode, messageOf } from '../../base/errors.ts'
import type { Usage } from '../../wire/result.ts'
import type { BuildEnd, BuildSpec } from '../executor-protocol.ts'

/** How a build went, and what it used of what its own process can tell. */
export interface BuildRun {
  readonly end: BuildEnd
  readonly usage: Pick<Usage, 'cpuMs' | 'maxRssBytes'>
}

export const NO_USAGE: BuildRun['usage'] = { cpuMs: 0, maxRssBytes: 0 }

interface ProcessEnd {
  readonly code: number | null
  readonly signal: string | null
  /** It could not be started. */
  readonly error?: unknown
}

export interface BuildProcess {
  /** Undefined where it could not be started: `ended` tells why. */
  readonly pid: number | undefined
  /** Its pipes are closed then, too. Never rejects. */
  readonly ended: Promise<ProcessEnd>
  /** Lets it become the build, once its processes are limited and counted. */
  readonly release: () => void
  /** How the build ended where nobody ended it; `stderrTail` is the last that it wrote there. */
  judge(ended: ProcessEnd, stderrTail: string): BuildRun
}

export function endOf(child: ChildProcess): Promise<ProcessEnd> {
  return new Promise((resolve) => {
    child.once('error', (error) => {
      if (child.pid === undefined) resolve({ code: null, signal: null, error })
    })
    child.once('close', (code, signal) => resolve({ code, signal }))
  })
}

/** What is said of a build whose process could not be started. Of a sealed one its sandbox finds the builder. */
export function startFailure({ isolation, argv }: BuildSpec, error: unknown): BuildEnd {
  const isPlain = isolation === 'host'
  if (isPlain && hasCode(error, 'ENOENT', 'EACCES', 'ENOEXEC', 'ENOTDIR', 'E2BIG', 'ELOOP'))
    return { kind: 'builder-not-found', message: `${argv[0]}: ${messageOf(error)}` }
  return { kind: 'infrastructure', message: `starting the build: ${messageOf(error)}` }
}
