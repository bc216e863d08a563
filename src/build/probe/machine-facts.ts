/**
 * All that is known of this machine, found out in one place: what the daemon offers to builds comes from here,
 * and so do `mesh-node guess-env`, `calibrate` and `init`. Two answers to one question cannot differ.
 *
 * `probeOffer` is what a node must know before it offers anything; `probeMachine` has what people want to know
 * besides. Either runs programs for some 100 ms and leaves nothing behind.
 */
import { machine, release } from 'node:os'
import type { SandboxChoice } from '../executor-protocol.ts'
import { outerIds } from '../sandbox-layout.ts'
import { probeAbilities, probeKvm, type Abilities } from './abilities.ts'
import { probeCgroups, type Cgroups } from './cgroups.ts'
import { probeEngines, type Engine } from './engines.ts'
import { readDisk, readProcessor, type DiskRoom } from './hardware.ts'
import type { Ability, Known } from './known.ts'
import { cpusOf, memoryBytesOf, swapBytesOf } from './limits.ts'
import { probeAllSystems, systemOfKernel, type NotRunnable, type Runnable } from './systems.ts'
import { readUserland, type Platform } from './userland.ts'

/** What decides about builds. */
export interface OfferFacts {
  readonly kernel: { readonly system: string; readonly release: string }
  /** What `cc` makes programs for; the kernel's system where nothing says so. */
  readonly userland: { readonly system: string; readonly platform: Platform; readonly how: string }
  readonly cpus: Known<number>
  readonly memoryBytes: Known<number>
  /** Of the data directory. */
  readonly disk: Known<DiskRoom>
  /** Whose programs ran here, native ones first; and whose did not. */
  readonly systems: readonly Runnable[]
  readonly otherSystems: readonly NotRunnable[]
  /** Virtual machines: by this process, and by a build in a sandbox, which is another user where this is root. */
  readonly kvm: { readonly host: Ability; readonly sandbox: Ability }
}

export interface MachineFacts extends OfferFacts, Abilities {
  readonly v: 1
  readonly swapBytes: Known<number>
  readonly cpuModel: Known<string>
  readonly cpuFlags: Known<readonly string[]>
  readonly cgroups: Cgroups
  /** How sealed builds are walled in, and why not more strongly. */
  readonly sandbox: {
    readonly method: SandboxChoice['method']
    readonly reasons: readonly string[]
  }
  /** That are installed, whether or not they answer. */
  readonly engines: readonly Engine[]
}

export interface ProbeOptions {
  /** The data directory, which need not be there yet. */
  readonly data: string
  /** Where trials may make files, and start them; the system's temporary directory where it is left out. */
  readonly directory?: string
}

export async function probeOffer({ data, directory }: ProbeOptions): Promise<OfferFacts> {
  const place = directory === undefined ? {} : { directory }
  const kernel = { system: systemOfKernel(machine()), release: release() }
  const [{ runnable, others }, userland, cpus, memoryBytes, disk, kvm] = await Promise.all([
    probeAllSystems(place),
    readUserland(),
    cpusOf(),
    memoryBytesOf(),
    readDisk(data),
    probeBothKvm(),
  ])
  return {
    kernel,
    userland: { ...userland, system: userland.system ?? kernel.system },
    cpus,
    memoryBytes,
    disk,
    systems: runnable,
    otherSystems: others,
    kvm,
  }
}

export async function probeMachine(
  options: ProbeOptions & { readonly sandbox: Pick<SandboxChoice, 'method' | 'reasons'> },
): Promise<MachineFacts> {
  const { method, reasons } = options.sandbox
  const place = options.directory === undefined ? {} : { directory: options.directory }
  const [offer, abilities, cgroups, swapBytes, processor, engines] = await Promise.all([
    probeOffer(options),
    probeAbilities(place),
    probeCgroups(),
    swapBytesOf(),
    readProcessor(),
    probeEngines(),
  ])
  return {
    v: 1,
    ...offer,
    ...abilities,
    swapBytes,
    cpuModel: processor.model,
    cpuFlags: processor.flags,
    cgroups,
    sandbox: { method, reasons },
    engines,
  }
}

async function probeBothKvm(): Promise<OfferFacts['kvm']> {
  const host = await probeKvm()
  const { uid } = outerIds()
  const sandbox = host.ok && uid !== process.geteuid?.() ? await probeKvm({ uid }) : host
  return { host, sandbox }
}
