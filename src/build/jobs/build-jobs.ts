/**
 * Job control of the builds of one executor: each gets a jobserver in the directory where it is told things,
 * one pool moves tokens between them, and one that takes more than it has is told of in its log.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Clock, Timer } from '../../base/clock.ts'
import type { Random } from '../../base/random.ts'
import { SOCKET_PATH_BYTES_MAX } from '../../jobs/count-socket.ts'
import { FIFO_NAME, Jobserver, SOCKET_NAME } from '../../jobs/jobserver.ts'
import { TokenPool } from '../../jobs/token-pool.ts'
import { plainPath } from '../attempt-directory.ts'
import type { BuildSpec } from '../executor-protocol.ts'
import type { PipePool } from '../pipe-pool.ts'
import { CONTROL } from '../sandbox-layout.ts'
import { CpuUse } from './cpu-use.ts'
import { MakeProbe, type RunTrial } from './make-probe.ts'
import { Overuse } from './overuse.ts'

/** Where a sealed build sees its control directory. */
const CONTROL_AT = `/build/${CONTROL}`
/**
 * Descriptors for make 4.2 and 4.3: far from those that scripts use themselves, but below the 1024 that it
 * can select. What shell scripts start can be given only such with one digit.
 */
export const DESCRIPTORS = [198, 199] as const
export const SCRIPT_DESCRIPTORS = [8, 9] as const
const LOOK_MS = 1000

export interface BuildJobsDeps {
  readonly clock: Clock
  readonly random: Random
  readonly pipes: PipePool
  /** Whom sealed builds run as. */
  readonly owner: { readonly uid: number; readonly gid: number }
  readonly runTrial: RunTrial
  readonly onError: (error: Error) => void
}

export class BuildJobs implements AsyncDisposable {
  readonly #deps: BuildJobsDeps
  readonly #pool: TokenPool
  readonly #probe: MakeProbe

  constructor(deps: BuildJobsDeps) {
    this.#deps = deps
    this.#pool = new TokenPool(deps.clock, deps.onError)
    this.#probe = new MakeProbe(deps.runTrial)
  }

  /** For a build whose directories are made; `descriptors` are those that it will inherit where it has to. */
  async open(
    spec: BuildSpec,
    jobs: number,
    descriptors: readonly [number, number],
  ): Promise<JobControl> {
    const { clock, random, pipes, owner } = this.#deps
    const isPlain = spec.isolation === 'host'
    const style = await this.#probe.styleFor(spec)
    const place = await placeOf(spec)
    let control: JobControl | undefined
    try {
      const server = await Jobserver.open(
        { clock, random, pool: this.#pool, makeFifo: (path) => pipes.name(path) },
        {
          id: spec.attempt,
          directory: place.directory,
          jobs,
          jobsMost: spec.jobsMost,
          busy: () => control?.busy(),
          owner: isPlain || owner.uid === process.geteuid?.() ? undefined : owner,
        },
      )
      const seen = { directory: isPlain ? place.directory : CONTROL_AT, descriptors }
      control = new JobControl(clock, {
        server,
        place,
        jobs,
        env: server.variables(style, seen),
        inherited: style === 'descriptors' ? `${seen.directory}/${FIFO_NAME}` : undefined,
      })
      return control
    } catch (error) {
      await place.remove()
      throw error
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#pool[Symbol.asyncDispose]()
  }
}

interface Place {
  readonly directory: string
  remove(): Promise<void>
}

/**
 * The control directory; but a plain build sees it by its path on the host, which may be too long for a
 * socket, or hold what make takes for the end of a word.
 */
async function placeOf(spec: BuildSpec): Promise<Place> {
  const directory = plainPath(spec, CONTROL_AT)
  const isFit =
    Buffer.byteLength(join(directory, SOCKET_NAME)) <= SOCKET_PATH_BYTES_MAX &&
    !/[\s$\\:,]/.test(directory)
  if (spec.isolation !== 'host' || isFit) return { directory, remove: () => Promise.resolve() }
  const short = await mkdtemp(join(tmpdir(), 'mesh-jobs-'))
  return { directory: short, remove: () => rm(short, { recursive: true, force: true }) }
}

/** Of one build, from before its start until no process of it is alive. */
export class JobControl {
  /** To be set where the derivation does not set it. */
  readonly env: Readonly<Record<string, string>>
  /** The FIFO, as the build sees it, that has to be open in it at the descriptors given; undefined: none. */
  readonly inherited: string | undefined
  readonly #clock: Clock
  readonly #server: Jobserver
  readonly #place: Place
  readonly #overuse = new Overuse()
  #jobs: number
  #use: CpuUse | undefined
  #timer: Timer | undefined

  constructor(
    clock: Clock,
    parts: {
      readonly server: Jobserver
      readonly place: Place
      readonly jobs: number
      readonly env: Readonly<Record<string, string>>
      readonly inherited: string | undefined
    },
  ) {
    this.#clock = clock
    this.#server = parts.server
    this.#place = parts.place
    this.#jobs = parts.jobs
    // Its name in nixpkgs and Guix: what their builders begin with. It does not change later.
    this.env = { ...parts.env, NIX_BUILD_CORES: String(parts.jobs) }
    this.inherited = parts.inherited
  }

  setJobs(jobs: number): void {
    this.#jobs = jobs
    this.#server.setJobs(jobs)
  }

  /** Its first process runs; `note` writes a line into its log. */
  begun(pid: number, note: (line: string) => void): void {
    const use = new CpuUse(this.#clock, pid)
    this.#use = use
    use.read()
    const look = (): void => {
      const busy = this.busy()
      const much = busy === undefined ? undefined : this.#overuse.look(busy, this.#jobs)
      // It is told once.
      if (much === undefined) this.#timer = this.#clock.setTimer(LOOK_MS, look)
      else note(overuseNote(much, this.#jobs))
    }
    this.#timer = this.#clock.setTimer(LOOK_MS, look)
  }

  /** Processors that it keeps busy, or would if there were more. */
  busy(): number | undefined {
    const seen = this.#use?.read()
    return seen === undefined ? undefined : Math.max(seen.cpus, seen.runnable)
  }

  async end(): Promise<void> {
    this.#timer?.cancel()
    await this.#server[Symbol.asyncDispose]()
    await this.#place.remove()
  }
}

function overuseNote(busy: number, jobs: number): string {
  return `note: it keeps ${busy.toFixed(1)} processors busy and was given ${jobs}: something in it runs a number of jobs of its own (make -jN leaves the jobserver; leave -j out, or use $MESH_JOBS)\n`
}
