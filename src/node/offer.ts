/** What this node offers to whoever grants: environments with the programs that were asked for, and how much of the machine. */
import type { Logger } from 'pino'
import type { HostEnvironment } from '../build/host-environment.ts'
import type { Digest } from '../wire/digest.ts'
import type { Environment } from '../wire/environment.ts'
import type { Resources } from '../wire/work-messages.ts'
import type { ReadyImage } from './images/declared-images.ts'

/** Programs that were hashed because somebody asked; beyond it no more are. */
const PROBED_TOOLS_MAX = 4096

export class Offer {
  readonly #host: HostEnvironment
  readonly #log: Logger
  readonly #tools = new Map<string, Digest | null>()
  #probing = Promise.resolve(false)
  /** Of the whole machine, policies aside. */
  capacity: Resources
  /** What its policy leaves to builds of it. */
  limit: Pick<Resources, 'cpus' | 'memoryBytes'> | undefined
  /** As it was measured; undefined while it is not. */
  speed: number | undefined
  isDraining = false
  note = ''
  /** Images that this node keeps ready. */
  images: () => readonly ReadyImage[] = () => []

  constructor(
    { host, log }: { readonly host: HostEnvironment; readonly log: Logger },
    capacity: Resources,
  ) {
    this.#host = host
    this.#log = log
    this.capacity = capacity
  }

  /** What is offered now. */
  get offered(): Resources {
    const { cpus, memoryBytes, diskBytes } = this.capacity
    const { limit } = this
    if (limit === undefined) return this.capacity
    return {
      cpus: Math.min(cpus, limit.cpus),
      memoryBytes: Math.min(memoryBytes, limit.memoryBytes),
      diskBytes,
    }
  }

  get environments(): Environment[] {
    const tools = Object.fromEntries(this.#tools)
    return this.#host.environments.map((environment) => {
      const { system, isolation } = environment
      const images = this.images()
        .filter((image) => isolation === 'image' && image.system === system)
        .map(({ name, digest }) => ({ name, digest }))
      return {
        ...environment,
        tools: { ...environment.tools, ...tools },
        ...(images.length === 0 ? {} : { images }),
      }
    })
  }

  /** Hashes programs that are not known yet, after those that were asked for before; true when something was added. */
  probe(names: readonly string[]): Promise<boolean> {
    this.#probing = this.#probing.then(() => this.#probe(names))
    return this.#probing
  }

  /** Hashes all that are known once more; true when one of them changed. */
  probeAgain(): Promise<boolean> {
    this.#probing = this.#probing.then(async () => {
      let hasChanged = false
      for (const [name, before] of this.#tools) {
        const now = await this.#host.probeTool(name).catch(() => before)
        hasChanged ||= now !== before
        this.#tools.set(name, now)
      }
      return hasChanged
    })
    return this.#probing
  }

  async #probe(names: readonly string[]): Promise<boolean> {
    let hasAdded = false
    for (const name of names) {
      if (this.#tools.has(name) || this.#tools.size >= PROBED_TOOLS_MAX) continue
      try {
        this.#tools.set(name, await this.#host.probeTool(name))
        hasAdded = true
      } catch (error) {
        // Its package may just be being replaced. Whoever wants it goes on asking.
        this.#log.warn({ err: error, tool: name }, 'program could not be hashed')
      }
    }
    return hasAdded
  }
}
