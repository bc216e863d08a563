/**
 * Derivations as they are submitted, and resolved ones, whose digest is the key of a job.
 *
 * A derivation names its inputs; some are outputs of other derivations of the same graph. Once all of
 * them are known as digests it is *resolved*: two resolved derivations with equal bytes are one job.
 */
import { z } from 'zod'
import { encodeObject } from './cbor.ts'
import { DigestBytes, DigestHex, sha256, type Digest } from './digest.ts'
import {
  DerivationName,
  Feature,
  InputName,
  OutputName,
  System,
  text,
  ToolName,
  VariableName,
} from './names.ts'
import { EntryWire, EntryJson, type Entry } from './tree.ts'

export const DERIVATIONS_MAX = 20_000
export const INPUTS_MAX = 10_000
export const ARGS_MAX = 10_000
export const ARG_BYTES_MAX = 128 * 1024
export const OUTPUTS_MAX = 64
export const VARIANTS_MAX = 64
/** Images on top of each other. */
export const LAYERS_MAX = 8
/** The most nodes that build one derivation to be compared. */
export const VERIFY_MAX = 9
/** The builder that fetches a URL in the worker itself; its output must have the declared sha256. */
export const BUILTIN_FETCH = 'builtin:fetch'

/** An input as written: a source that is in the store, or the output of another derivation. */
export type InputRef =
  | { kind: 'entry'; entry: Entry }
  | { kind: 'output'; derivation: string; output: string }

const Env = z.record(VariableName, text(ARG_BYTES_MAX))
const Args = z.array(text(ARG_BYTES_MAX)).max(ARGS_MAX)
const ms = z
  .int()
  .min(1)
  .max(30 * 24 * 3600 * 1000)

/** What a node must have. Never part of a key: raising memory does not rebuild. */
export const Needs = z.object({
  /** The job may use from `min` to `max` processors; it starts with what is free in that range. */
  cpus: z.object({ min: z.int().min(1).max(4096), max: z.int().min(1).max(4096) }),
  memoryBytes: z
    .int()
    .min(0)
    .max(2 ** 46),
  diskBytes: z
    .int()
    .min(0)
    .max(2 ** 50),
  features: z.array(Feature).max(64),
})
export type Needs = z.infer<typeof Needs>

/** Limits of one run. Never part of a key. */
export const RunLimits = z.object({
  timeoutMs: ms,
  maxSilentMs: ms,
  maxLogBytes: z
    .int()
    .min(1024)
    .max(2 ** 34),
  /** Retries after a failure of the infrastructure; a failure of the build is never retried. */
  retries: z.int().min(0).max(20),
  /** Of all outputs together; no limit where it is left out. */
  maxOutputBytes: z
    .int()
    .min(1)
    .max(2 ** 50)
    .optional(),
  /** Keep the build directory of an attempt that fails, for a while, at its node. */
  keepFailed: z.boolean().optional(),
  /** Different nodes that build it, whose outputs must be equal; one where it is left out. */
  verify: z.int().min(1).max(VERIFY_MAX).optional(),
})
export type RunLimits = z.infer<typeof RunLimits>

export const DEFAULT_NEEDS: Needs = {
  cpus: { min: 1, max: 1 },
  memoryBytes: 0,
  diskBytes: 0,
  features: [],
}
export const DEFAULT_LIMITS: RunLimits = {
  timeoutMs: 3600_000,
  maxSilentMs: 1800_000,
  maxLogBytes: 64 * 1024 * 1024,
  retries: 2,
}

const derivationSchema = <D extends z.ZodType<Digest>, E extends z.ZodType<Entry>>(
  digest: D,
  entry: E,
) => {
  const inputs = z.record(
    InputName,
    z.discriminatedUnion('kind', [
      z.object({ kind: z.literal('entry'), entry }),
      z.object({ kind: z.literal('output'), derivation: DerivationName, output: OutputName }),
    ]),
  )
  /** File systems on top of each other, the uppermost first; none: the host's own tools. */
  const image = z
    .array(
      z.discriminatedUnion('kind', [
        z.object({ kind: z.literal('entry'), entry }),
        z.object({ kind: z.literal('output'), derivation: DerivationName, output: OutputName }),
      ]),
    )
    .max(LAYERS_MAX)
    .optional()
  return z.object({
    name: DerivationName,
    /** Absolute path, `./NAME` of an input, a bare program name, or `builtin:fetch`. */
    builder: text(4096).min(1),
    args: Args,
    env: Env,
    inputs,
    outputs: z.array(OutputName).min(1).max(OUTPUTS_MAX),
    /** What the outputs run on. */
    system: System,
    /** Systems of the machines that may run it. Empty: those equal to `system`, and those of the variants. */
    hosts: z.array(System).max(16),
    image,
    /**
     * Extra arguments, environment and inputs by the system of the environment that runs it, and, where
     * `machine` is given, of the machine that emulates that one. An image takes the place of the derivation's;
     * an empty one means the host's own tools.
     */
    variants: z
      .array(
        z.object({ host: System, machine: System.optional(), args: Args, env: Env, inputs, image }),
      )
      .max(VARIANTS_MAX),
    network: z.boolean(),
    /** Whether it must be built in a private root with nothing undeclared. */
    sealed: z.boolean(),
    /** Further programs of the host whose contents belong to the fingerprint. Sorted, no duplicates. */
    tools: z.array(ToolName).max(256),
    needs: Needs,
    run: RunLimits,
    /** Only for `builtin:fetch`. */
    fetch: z.object({ urls: z.array(text(4096)).min(1).max(16), sha256: digest }).optional(),
    /** `file:line` of its definition, for messages. */
    where: text(1024).optional(),
    /** Lines of that file where what a node must have is asked for. */
    lines: z
      .partialRecord(
        z.enum(['system', 'host', 'cpus', 'memory', 'disk', 'features', 'tools', 'sealed']),
        z.int().min(1),
      )
      .optional(),
  })
}

/** Derivation in messages. */
const DerivationWire = derivationSchema(DigestBytes, EntryWire)
/** Derivation in JSON. */
const DerivationJson = derivationSchema(DigestHex, EntryJson)
export type Derivation = z.infer<typeof DerivationWire>

const graphSchema = <D extends z.ZodType<Derivation>>(derivation: D) =>
  z.object({
    v: z.literal(1),
    /** What people see in lists: usually the file's name. */
    name: text(256),
    derivations: z.array(derivation).min(1).max(DERIVATIONS_MAX),
    /** Names of the derivations that were asked for. */
    wanted: z.array(DerivationName).min(1).max(DERIVATIONS_MAX),
  })
export const GraphWire = graphSchema(DerivationWire)
export const GraphJson = graphSchema(DerivationJson)
export type Graph = z.infer<typeof GraphWire>

const ResolvedInputs = z.record(InputName, EntryWire)
const ResolvedImage = z.array(EntryWire).max(LAYERS_MAX).optional()
/** All of a derivation that decides its outputs, with every input known. Its canonical bytes are the job's key. */
const Resolved = z.object({
  v: z.literal(1),
  builder: text(4096),
  args: Args,
  env: Env,
  inputs: ResolvedInputs,
  outputs: z.array(OutputName),
  system: System,
  hosts: z.array(System),
  image: ResolvedImage,
  variants: z.array(
    z.object({
      host: System,
      machine: System.optional(),
      args: Args,
      env: Env,
      inputs: ResolvedInputs,
      image: ResolvedImage,
    }),
  ),
  network: z.boolean(),
  sealed: z.boolean(),
  tools: z.array(ToolName),
  fetch: DigestBytes.optional(),
})
export type ResolvedDerivation = z.infer<typeof Resolved>

/** Looks an output up; undefined while it is not known yet. */
export type OutputLookup = (derivation: string, output: string) => Entry | undefined

/** The resolved derivation, or undefined while an input is not known. Pure. */
export function resolveDerivation(
  derivation: Derivation,
  lookup: OutputLookup,
): ResolvedDerivation | undefined {
  const inputs = resolveInputs(derivation.inputs, lookup)
  const image = resolveImage(derivation.image, lookup)
  if (inputs === undefined || image === undefined) return undefined
  const variants: ResolvedDerivation['variants'] = []
  for (const { host, machine, args, env, ...variant } of derivation.variants) {
    const resolved = resolveInputs(variant.inputs, lookup)
    const layers = resolveImage(variant.image, lookup)
    if (resolved === undefined || layers === undefined) return undefined
    variants.push({
      host,
      ...(machine === undefined ? {} : { machine }),
      args,
      env,
      inputs: resolved,
      ...(variant.image === undefined ? {} : { image: layers }),
    })
  }
  return {
    v: 1,
    builder: derivation.builder,
    args: derivation.args,
    env: derivation.env,
    inputs,
    outputs: derivation.outputs.toSorted(),
    system: derivation.system,
    hosts: derivation.hosts.toSorted(),
    ...(derivation.image === undefined ? {} : { image }),
    variants,
    network: derivation.network,
    sealed: derivation.sealed,
    tools: derivation.tools,
    ...(derivation.fetch === undefined ? {} : { fetch: derivation.fetch.sha256 }),
  }
}

function resolveInputs(
  inputs: Readonly<Record<string, InputRef>>,
  lookup: OutputLookup,
): Record<string, Entry> | undefined {
  const resolved: Record<string, Entry> = {}
  for (const [name, input] of Object.entries(inputs)) {
    const entry = entryOf(input, lookup)
    if (entry === undefined) return undefined
    resolved[name] = entry
  }
  return resolved
}

/** Its layers, none where no image is named; undefined while one of them is not known. */
function resolveImage(
  image: readonly InputRef[] | undefined,
  lookup: OutputLookup,
): Entry[] | undefined {
  const layers: Entry[] = []
  for (const input of image ?? []) {
    const entry = entryOf(input, lookup)
    if (entry === undefined) return undefined
    layers.push(entry)
  }
  return layers
}

const entryOf = (input: InputRef, lookup: OutputLookup): Entry | undefined =>
  input.kind === 'entry' ? input.entry : lookup(input.derivation, input.output)

/** The unit of dedupe and of cache look-up, known before any node is chosen. */
export function jobKey(resolved: ResolvedDerivation): Digest {
  return sha256(encodeObject(Resolved, resolved))
}

/** The names of the derivations that `derivation` takes outputs from, without duplicates. */
export function dependenciesOf(derivation: Derivation): string[] {
  const names = new Set<string>()
  for (const input of inputsOf(derivation)) if (input.kind === 'output') names.add(input.derivation)
  return [...names]
}

/** All that it may take in any of its variants, images included. */
export function inputsOf(
  derivation: Pick<Derivation, 'inputs' | 'image' | 'variants'>,
): InputRef[] {
  return [derivation, ...derivation.variants].flatMap(({ inputs, image = [] }) => [
    ...Object.values(inputs),
    ...image,
  ])
}

/** The same of a resolved one. */
export function entriesOf(
  resolved: Pick<ResolvedDerivation, 'inputs' | 'image' | 'variants'>,
): Entry[] {
  return [resolved, ...resolved.variants].flatMap(({ inputs, image = [] }) => [
    ...Object.values(inputs),
    ...image,
  ])
}

/** Where a derivation may run: what an environment is as far as variants look at it. */
export interface Place {
  readonly system: string
  /** The machine's own system, where it emulates that one. */
  readonly machine?: string | undefined
}

/** The variant for an environment: one for just its machine comes before one for whatever machine. */
export function variantFor<
  V extends { readonly host: string; readonly machine?: string | undefined },
>(variants: readonly V[], { system, machine = system }: Place): V | undefined {
  const fitting = variants.filter(({ host }) => host === system)
  return (
    fitting.find((variant) => variant.machine === machine) ??
    fitting.find((variant) => variant.machine === undefined)
  )
}

/** The layers that it runs in there; none: the host's own tools. */
export function imageFor<I>(
  derivation: {
    readonly image?: readonly I[] | undefined
    readonly variants: readonly {
      readonly host: string
      readonly machine?: string | undefined
      readonly image?: readonly I[] | undefined
    }[]
  },
  place: Place,
): readonly I[] {
  return variantFor(derivation.variants, place)?.image ?? derivation.image ?? []
}

/** The systems of the machines that may run it; the target itself when nothing else is said. */
export function hostsOf(derivation: {
  readonly system: string
  readonly hosts: readonly string[]
  readonly variants: readonly { readonly host: string }[]
}): readonly string[] {
  if (derivation.hosts.length > 0) return derivation.hosts
  return [...new Set([derivation.system, ...derivation.variants.map((variant) => variant.host)])]
}
