/** Graphs, environments and results in the shortest form that tests of the scheduler need. */
import { digestBytes, sha256, type Digest } from '../../src/wire/digest.ts'
import {
  DEFAULT_LIMITS,
  DEFAULT_NEEDS,
  type Derivation,
  type InputRef,
  type RunLimits,
} from '../../src/wire/derivation.ts'
import type { Environment } from '../../src/wire/environment.ts'
import type { RequestWire } from '../../src/wire/facts.ts'
import { peerIdOf, type ActionResult, type SignedResult } from '../../src/wire/result.ts'
import type { Entry } from '../../src/wire/tree.ts'
import type { Grant } from '../../src/scheduler/events.ts'
import { derivedId } from '../../src/base/random.ts'

export const GIB = 2 ** 30
export const LINUX = 'x86_64-linux'

/** A peer id that belongs to `name`. */
export function peerOf(name: string): string {
  return peerIdOf(digestBytes(sha256(`peer ${name}`)))
}

export function requestId(name: string): string {
  return derivedId('r', name)
}

export function fileEntry(text: string): Entry {
  return { kind: 'file', digest: sha256(text), size: text.length, executable: false }
}

export interface DerivationOptions {
  /** `NAME` or `NAME.OUTPUT` of other derivations; their variables are named in order: `a`, `b` ... */
  readonly after?: readonly string[]
  /** Texts of source files. */
  readonly sources?: readonly string[]
  readonly args?: readonly string[]
  readonly outputs?: readonly string[]
  readonly system?: string
  readonly sealed?: boolean
  readonly tools?: readonly string[]
  readonly cpus?: number
  readonly cpusMax?: number
  readonly memoryBytes?: number
  readonly features?: readonly string[]
  readonly run?: Partial<RunLimits>
  readonly urls?: readonly string[]
  /** Texts of its layers; none: the host's own tools. */
  readonly image?: readonly string[]
  readonly hosts?: readonly string[]
  readonly variants?: readonly VariantOptions[]
}

export interface VariantOptions {
  readonly host: string
  readonly machine?: string
  readonly args?: readonly string[]
  readonly image?: readonly string[]
}

const layers = (texts: readonly string[] | undefined): Pick<Derivation, 'image'> =>
  texts === undefined
    ? {}
    : { image: texts.map((text) => ({ kind: 'entry', entry: fileEntry(text) })) }

/** A derivation whose key hangs on its inputs and arguments; its name is an argument unless some are given. */
export function derivation(name: string, options: DerivationOptions = {}): Derivation {
  const inputs: Record<string, InputRef> = {}
  const variable = (): string => `in${Object.keys(inputs).length}`
  for (const reference of options.after ?? []) {
    const [from = '', output = 'out'] = reference.split('.')
    inputs[variable()] = { kind: 'output', derivation: from, output }
  }
  for (const text of options.sources ?? [])
    inputs[variable()] = { kind: 'entry', entry: fileEntry(text) }
  return {
    name,
    builder: options.urls === undefined ? '/bin/sh' : 'builtin:fetch',
    args: [...(options.args ?? [name])],
    env: {},
    inputs,
    outputs: [...(options.outputs ?? ['out'])],
    system: options.system ?? LINUX,
    hosts: [...(options.hosts ?? [])],
    ...layers(options.image),
    variants: (options.variants ?? []).map(({ host, machine, args = [], image }) => ({
      host,
      ...(machine === undefined ? {} : { machine }),
      args: [...args],
      env: {},
      inputs: {},
      ...layers(image),
    })),
    network: false,
    sealed: options.sealed ?? true,
    tools: [...(options.tools ?? [])],
    needs: {
      ...DEFAULT_NEEDS,
      cpus: { min: options.cpus ?? 1, max: Math.max(options.cpusMax ?? 1, options.cpus ?? 1) },
      memoryBytes: options.memoryBytes ?? 0,
      features: [...(options.features ?? [])],
    },
    run: { ...DEFAULT_LIMITS, ...options.run },
    ...(options.urls === undefined
      ? {}
      : { fetch: { urls: [...options.urls], sha256: sha256(options.urls.join()) } }),
  }
}

export interface RequestOptions {
  readonly keepGoing?: boolean
  readonly noWait?: boolean
  readonly priority?: number
  readonly takesCopy?: boolean
  readonly wanted?: readonly string[]
  readonly user?: string
  readonly submittedAtWall?: number
  readonly waitLimitMs?: number
}

export function requestWire(
  name: string,
  derivations: readonly Derivation[],
  options: RequestOptions = {},
): RequestWire {
  return {
    id: requestId(name),
    user: options.user ?? 'test/local',
    entry: { peerId: peerOf('entry'), name: 'entry' },
    graph: {
      v: 1,
      name,
      derivations: [...derivations],
      wanted: [...(options.wanted ?? derivations.map((each) => each.name))],
    },
    priority: options.priority ?? 50,
    keepGoing: options.keepGoing ?? false,
    noWait: options.noWait ?? false,
    takesCopy: options.takesCopy ?? false,
    ...(options.waitLimitMs === undefined ? {} : { waitLimitMs: options.waitLimitMs }),
    submittedAtWall: options.submittedAtWall ?? 1_000_000,
  }
}

export interface EnvironmentOptions {
  readonly system?: string
  readonly isolation?: Environment['isolation']
  /** Any text: equal texts are equal userlands. */
  readonly base?: string
  readonly tools?: Readonly<Record<string, string | null>>
  readonly features?: readonly string[]
  /** The machine's own system, where it emulates that one. */
  readonly machine?: string
}

export function environment(options: EnvironmentOptions = {}): Environment {
  const tools: Record<string, Digest | null> = {}
  for (const [tool, text] of Object.entries(options.tools ?? {}))
    tools[tool] = text === null ? null : sha256(`tool ${text}`)
  return {
    system: options.system ?? LINUX,
    isolation: options.isolation ?? 'namespace',
    label: `userland-${options.base ?? 'a'}`,
    base: sha256(`base ${options.base ?? 'a'}`),
    tools,
    features: [...(options.features ?? [])],
    ...(options.machine === undefined ? {} : { machine: options.machine }),
  }
}

/** What an honest worker answers to a grant. Outputs hang on the action alone unless `made` is given: their text, or each of them. */
export function resultOf(
  grant: Pick<Grant, 'attempt' | 'action'>,
  made?: string | Entry,
): ActionResult {
  const { attempt, action } = grant
  return {
    v: 1,
    action: attempt.action,
    jobKey: attempt.job.key,
    attempt: attempt.id,
    exitCode: 0,
    outputs: Object.fromEntries(
      action.outputs.map(([name]): [string, Entry] => [
        name,
        typeof made === 'object' ? made : fileEntry(`${name} ${made ?? attempt.action}`),
      ]),
    ),
    log: { digest: sha256(''), size: 0 },
    usage: { wallMs: 1000, cpuMs: 900, maxRssBytes: 1024 },
    userland: attempt.userland,
    builder: {
      peerId: attempt.node.peerId,
      name: attempt.node.name,
      system: attempt.system,
      isolation: attempt.isolation,
    },
    endedAtWallMs: 1_000_000,
  }
}

/** Stands for a signed result where nobody opens it. */
export function unsigned(result: ActionResult): SignedResult {
  return {
    body: new Uint8Array(),
    builder: { peerId: result.builder.peerId, signature: new Uint8Array(64) },
  }
}

export const sha = (text: string): Digest => sha256(text)
