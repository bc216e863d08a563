/** Builds that run many short jobs and write down when each begins and ends, to see how many run at once. */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { BuildInput } from '../../src/build/executor.ts'

/** Where `scripts/newer-tools.sh` has put make 4.4 and ninja 1.13. */
export const NEWER_TOOLS = process.env['MESH_NEWER_TOOLS']
export const NO_NEWER_TOOLS =
  'no make 4.4 and ninja 1.13: scripts/newer-tools.sh DIR gets them, MESH_NEWER_TOOLS=DIR names them'
const NEWER_AT = '/build/in/newer'

export type WorkTool = 'make' | 'newer make' | 'newer ninja'

export interface ParallelWork {
  readonly script: string
  readonly path: string
  readonly inputs: readonly BuildInput[]
}

/** `jobs` jobs of `seconds` each, started by the tool as its jobserver lets it. */
export function parallelWork(
  tool: WorkTool,
  { jobs, seconds }: { readonly jobs: number; readonly seconds: number },
): ParallelWork {
  const step = (name: string): string =>
    `echo s >> events; sleep ${seconds}; echo e >> events; : ${name}`
  const ids = Array.from({ length: jobs }, (_, at) => `t${at}`)
  const isNinja = tool === 'newer ninja'
  const file = isNinja
    ? [
        'rule step',
        `  command = ${step('$out')}`,
        ...ids.map((id) => `build ${id}: step`),
        '',
      ].join('\n')
    : `all: ${ids.join(' ')}\n${ids.join(' ')}:\n\t@${step('$@')}\n`
  const isNewer = tool !== 'make'
  return {
    script: `cat > ${isNinja ? 'build.ninja' : 'Makefile'} <<'END'\n${file}END\nexec ${isNinja ? 'ninja' : 'make'}`,
    path: isNewer ? `${NEWER_AT}/bin:/usr/bin:/bin` : '/usr/bin:/bin',
    inputs: isNewer
      ? [{ path: NEWER_AT, source: { kind: 'dir', hostPath: NEWER_TOOLS ?? '/' } }]
      : [],
  }
}

/** What the jobs of a build in `directory` have written down. */
export class WorkEvents {
  readonly #path: string

  constructor(directory: string) {
    this.#path = join(directory, 'work', 'events')
  }

  read(): string {
    return existsSync(this.#path) ? readFileSync(this.#path, 'latin1').replaceAll('\n', '') : ''
  }
  get started(): number {
    return count(this.read(), 's')
  }
  /** Jobs that run now. */
  get running(): number {
    return runningAt(this.read())
  }
}

/** Where the events begin from which on never more than `limit` ran at once. */
export function lastOver(events: string, limit: number): number {
  let running = 0
  let from = 0
  for (const [at, event] of events.split('').entries()) {
    running += event === 's' ? 1 : -1
    if (running > limit) from = at + 1
  }
  return from
}

const runningAt = (events: string): number => count(events, 's') - count(events, 'e')

/** The most that ran at once from the event at `from` on. */
export function mostAtOnce(events: string, from = 0): number {
  let running = runningAt(events.slice(0, from))
  let most = running
  for (const event of events.slice(from)) {
    running += event === 's' ? 1 : -1
    most = Math.max(most, running)
  }
  return most
}

export function count(events: string, event: 's' | 'e'): number {
  return events.split(event).length - 1
}
