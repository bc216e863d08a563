/** Runs a small program where builds run, to find out what they would find there. */
import { mkdtemp, readFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { removeTree } from '../../files/workers/remove-job.ts'
import { LogDecoder } from '../../wire/log-record.ts'
import { RunningBuild, type BuildDeps } from '../running-build.ts'
import type { RunTrial } from './make-probe.ts'

/** In temporary directories below `directory`, which is that of the sandbox. */
export function trialRunner(deps: BuildDeps, directory: string): RunTrial {
  return async (spec) => {
    const attempt = await mkdtemp(join(directory, 'trial-'))
    try {
      const build = new RunningBuild(
        deps,
        { ...spec, attempt: basename(attempt), directory: attempt },
        () => {},
      )
      const { end } = await build.outcome
      if (end.kind === 'builder-not-found') return { kind: 'absent' }
      if (end.kind !== 'exited') return { kind: 'failed' }
      const stdout = new LogDecoder()
        .push(await readFile(join(attempt, 'log')))
        .filter(({ stream }) => stream === 'stdout')
        .map(({ bytes }) => String(bytes))
        .join('')
      return { kind: 'exited', code: end.code, stdout }
    } finally {
      await removeTree(attempt)
    }
  }
}
