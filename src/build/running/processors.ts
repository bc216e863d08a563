/**
 * How many processors a build has, told to everybody who asks: its control group, the file that it reads, and
 * the jobserver of its tools.
 */
import { join } from 'node:path'
import { messageOf } from '../../base/errors.ts'
import { writeJobsFile } from '../../jobs/jobs-file.ts'
import type { BuildSpec } from '../executor-protocol.ts'
import type { BuildGroup } from '../groups/build-group.ts'
import {
  DESCRIPTORS,
  SCRIPT_DESCRIPTORS,
  type BuildJobs,
  type JobControl,
} from '../jobs/build-jobs.ts'
import { CONTROL } from '../sandbox-layout.ts'

export class Processors {
  readonly #directory: string
  #jobs: number
  #isHard: boolean
  /** What it was told last. */
  #told: number | undefined
  #group: BuildGroup | undefined
  #control: JobControl | undefined

  constructor(directory: string, jobs: number, { isHard }: { readonly isHard: boolean }) {
    this.#directory = directory
    this.#jobs = jobs
    this.#isHard = isHard
  }

  /** What its tools are told of the jobserver; undefined where it has none. */
  get control(): Pick<JobControl, 'env' | 'inherited'> | undefined {
    return this.#control
  }

  /** Of a build whose directories are made. Returns why it has no jobserver: it has the number that it begins with. */
  async open(
    control: BuildJobs | undefined,
    spec: BuildSpec,
    { isScript }: { readonly isScript: boolean },
  ): Promise<string | undefined> {
    const jobs = this.#jobs
    writeJobsFile(join(this.#directory, CONTROL), jobs)
    this.#told = jobs
    try {
      this.#control = await control?.open(spec, jobs, isScript ? SCRIPT_DESCRIPTORS : DESCRIPTORS)
      return undefined
    } catch (error) {
      return `it has no jobserver: ${messageOf(error)}`
    }
  }

  /** Its group has a share for so many from now on. */
  limit(group: BuildGroup): void {
    this.#group = group
    group.setCpus(this.#jobs, { hard: this.#isHard })
  }

  /** Its first process runs; `note` writes a line into its log. */
  begin(pid: number, note: (line: string) => void): void {
    this.#control?.begun(pid, note)
  }

  /** Of its group at once, of itself with `tell`. */
  set(jobs: number, isHard = this.#isHard): void {
    this.#jobs = jobs
    this.#isHard = isHard
    this.#group?.setCpus(jobs, { hard: isHard })
  }

  /** Tells it the number that it does not know yet. Throws what the disk says. */
  tell(): void {
    if (this.#told === this.#jobs) return
    writeJobsFile(join(this.#directory, CONTROL), this.#jobs)
    this.#control?.setJobs(this.#jobs)
    this.#told = this.#jobs
  }

  /** Its jobserver goes, once no process of it is alive. */
  async end(): Promise<void> {
    await this.#control?.end()
  }
}
