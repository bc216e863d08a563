/**
 * A node's own checks: programs of its operator that are asked before an attempt begins, and may refuse it.
 *
 * Exit 0 accepts; 1 refuses this job, 2 all of its derivation's name, 3 whatever comes. The first line on
 * stdout is the reason; `retry-after=SECONDS` says for how long. They run as the daemon's user and without
 * walls. A check that hangs, is missing or ends otherwise refuses all, since nobody knows what it would say.
 */
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { MeshError } from '../base/errors.ts'
import type { Action } from '../wire/action.ts'
import { REFUSAL_MS_MAX, type AttemptOutcome, type Lease } from '../wire/work-messages.ts'
import type { BuildEnd, Executor } from './executor.ts'
import {
  OPERATOR_MS_MAX,
  OPERATOR_OUTPUT_BYTES_MAX,
  runOperatorProgram,
} from './operator-program.ts'
import { SEARCH_PATH } from './tool-path.ts'

/** How long a refusal holds where the check does not say. */
export const REFUSAL_MS_DEFAULT = 5 * 60_000
const REASON_CHARS_MAX = 512

export type Refused = Extract<AttemptOutcome, { kind: 'refused' }>

export interface AcceptanceChecks {
  /** Undefined when all of them accept. Throws the signal's reason, and MESH0505 when they cannot be asked. */
  ask(
    lease: Lease,
    action: Action,
    /** The attempt's own directory; the checks work in directories of their own in it. */
    options: { readonly directory: string; readonly signal: AbortSignal },
  ): Promise<Refused | undefined>
}

export interface CheckDeps {
  readonly executor: Executor
  /** Told what is wrong with the checks themselves; an empty text when nothing is. */
  readonly onNote: (note: string) => void
}

/** `paths` are asked in their order, until one refuses. */
export function acceptanceChecks(
  { executor, onNote }: CheckDeps,
  options: {
    readonly paths: readonly string[]
    readonly node: string
    /** How long one may take. */
    readonly limitMs?: number
  },
): AcceptanceChecks {
  const { paths, node, limitMs = OPERATOR_MS_MAX } = options
  return {
    async ask(lease, action, { directory, signal }) {
      for (const [index, path] of paths.entries()) {
        signal.throwIfAborted()
        const own = join(directory, `check-${index}`)
        await mkdir(own, { mode: 0o700 })
        const { end, output } = await runOperatorProgram(executor, {
          attempt: `${lease.attempt}-check${index}`,
          path,
          env: environmentOf(lease, action, node),
          directory: own,
          limitMs,
          signal,
        })
        const answer = answerOf(path, end, output, limitMs)
        onNote(answer.problem)
        if (answer.refused !== undefined) return answer.refused
      }
      return undefined
    },
  }
}

function environmentOf(lease: Lease, action: Action, node: string): Record<string, string> {
  return {
    PATH: SEARCH_PATH,
    HOME: '/build/home',
    TMPDIR: '/build/tmp',
    LC_ALL: 'C',
    MESH_ATTEMPT: lease.attempt,
    MESH_JOB: lease.job,
    MESH_NAME: lease.name,
    MESH_NODE: node,
    MESH_SYSTEM: action.system,
    MESH_ISOLATION: lease.isolation,
    MESH_NETWORK: action.network ? '1' : '0',
    MESH_CPUS: String(lease.cpus),
    MESH_MEMORY: String(lease.memoryBytes),
    MESH_DISK: String(lease.diskBytes),
  }
}

interface Answer {
  readonly refused: Refused | undefined
  /** What is wrong with the check. */
  readonly problem: string
}

function answerOf(path: string, end: BuildEnd, output: string, limitMs: number): Answer {
  const wrong = (what: string): Answer => {
    const problem = `check ${path} ${what}`
    return {
      refused: { kind: 'refused', scope: 'all', reason: problem, forMs: REFUSAL_MS_DEFAULT },
      problem,
    }
  }
  switch (end.kind) {
    case 'cancelled':
      throw new MeshError('MESH0304', 'nobody needs it any more')
    case 'infrastructure':
      throw new MeshError('MESH0505', `check ${path}: ${end.message}`)
    case 'builder-not-found':
      return wrong(`cannot be run: ${end.message.slice(0, REASON_CHARS_MAX)}`)
    case 'signalled':
      return wrong(`was ended by ${end.signal}`)
    case 'limit':
      return end.limit === 'log'
        ? wrong(`printed more than ${OPERATOR_OUTPUT_BYTES_MAX} bytes`)
        : wrong(`did not answer within ${limitMs / 1000} s`)
    case 'exited': {
      if (end.code === 0) return { refused: undefined, problem: '' }
      const scope = ([undefined, 'job', 'name', 'all'] as const)[end.code]
      if (scope === undefined) return wrong(`ended with ${end.code}, which is none of 0, 1, 2, 3`)
      const { reason, forMs } = readAnswer(output)
      return {
        refused: { kind: 'refused', scope, reason: reason || `check ${path} refused it`, forMs },
        problem: '',
      }
    }
  }
}

/** The reason and how long it holds, from what the check printed. */
export function readAnswer(output: string): { readonly reason: string; readonly forMs: number } {
  const after = /(?:^|[\s;,]+)retry-after=(\d{1,9})\b/.exec(output)
  const first = output
    .replace(after?.[0] ?? '', '')
    .split('\n')
    .find((line) => line.trim() !== '')
  const seconds = after?.[1] === undefined ? REFUSAL_MS_DEFAULT / 1000 : Number(after[1])
  return {
    // What a terminal would take for an order is left out.
    reason: (first ?? '')
      .replaceAll(/\p{Cc}/gu, ' ')
      .trim()
      .slice(0, REASON_CHARS_MAX),
    forMs: Math.min(REFUSAL_MS_MAX, seconds * 1000),
  }
}
