/** The file in which a build reads how many jobs it should run: a decimal number and a line feed. */
import { mkdirSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

/** Its name in the directory where a build is told things. */
export const JOBS_NAME = 'jobs'

/** By rename: nobody ever reads half a number. */
export function writeJobsFile(directory: string, jobs: number): void {
  mkdirSync(directory, { recursive: true, mode: 0o755 })
  const next = join(directory, `.${JOBS_NAME}`)
  writeFileSync(next, `${jobs}\n`, { mode: 0o644 })
  renameSync(next, join(directory, JOBS_NAME))
}
