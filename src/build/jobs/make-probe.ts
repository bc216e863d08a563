/**
 * Finds out which make a build would find, by running it where the build will run: in the same walls, root
 * and PATH. Once for each such environment.
 */
import type { BuildSpec } from '../executor-protocol.ts'
import { makeStyleOf, type MakeStyle } from '../../jobs/make-style.ts'

/** Environments remembered; when full, it starts anew. */
const KNOWN_MAX = 256
const PROBE_MS = 10_000
const PROBE_LOG_BYTES = 64 * 1024

/** How a trial ended. */
type TrialEnd =
  | { readonly kind: 'exited'; readonly code: number; readonly stdout: string }
  | { readonly kind: 'absent' }
  | { readonly kind: 'failed' }

/** Runs a specification that lacks only its names, in a directory of its own. */
export type RunTrial = (spec: Omit<BuildSpec, 'attempt' | 'directory'>) => Promise<TrialEnd>

export class MakeProbe {
  readonly #run: RunTrial
  readonly #known = new Map<string, Promise<MakeStyle>>()

  constructor(run: RunTrial) {
    this.#run = run
  }

  styleFor(spec: BuildSpec): Promise<MakeStyle> {
    const trial = trialOf(spec)
    const key = JSON.stringify(trial)
    let known = this.#known.get(key)
    if (known === undefined) {
      if (this.#known.size >= KNOWN_MAX) this.#known.clear()
      known = this.#probe(trial, key)
      this.#known.set(key, known)
    }
    return known
  }

  async #probe(trial: Omit<BuildSpec, 'attempt' | 'directory'>, key: string): Promise<MakeStyle> {
    const end = await this.#run(trial)
    if (end.kind === 'absent') return makeStyleOf(undefined)
    if (end.kind === 'exited') return makeStyleOf(end.code === 0 ? end.stdout : '')
    // It could not be asked: the next build asks again, and this one is told of nothing.
    this.#known.delete(key)
    return 'none'
  }
}

/** What decides which make is found, and nothing else: what differs here is probed anew. */
function trialOf(spec: BuildSpec): Omit<BuildSpec, 'attempt' | 'directory'> {
  const path = spec.env['PATH'] ?? '/usr/bin:/bin'
  const searched = path.split(':').filter((directory) => directory.startsWith('/build/'))
  return {
    isolation: spec.isolation,
    ...(spec.image === undefined ? {} : { image: spec.image }),
    argv: ['make', '--version'],
    env: { PATH: path, LC_ALL: 'C' },
    cwd: '/build/work',
    // Tools that come as inputs; the others say nothing of make.
    inputs: spec.inputs.filter(
      ({ path: input }) =>
        !input.startsWith('/build/work/') &&
        searched.some((directory) => `${directory}/`.startsWith(`${input}/`)),
    ),
    network: false,
    limits: { timeoutMs: PROBE_MS, maxSilentMs: PROBE_MS, maxLogBytes: PROBE_LOG_BYTES },
  }
}
