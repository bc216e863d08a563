/** Environments: where an action runs on a node, and the fingerprint that keys a host's own toolchain. */
import { z } from 'zod'
import { encodeCbor } from './cbor.ts'
import { DigestBytes, DigestHex, digestBytes, sha256, type Digest } from './digest.ts'
import { Feature, ImageName, System, text, ToolName } from './names.ts'

/**
 * How strong the walls are, weakest first. `host`: none at all, builds in it are unsealed. `namespace`: a
 * private root with the host's own tools. `image`: a private root made of images, which the job names.
 */
const ISOLATIONS = ['host', 'namespace', 'image'] as const
export const Isolation = z.enum(ISOLATIONS)
export type Isolation = z.infer<typeof Isolation>

/** Images that a node tells of. */
const IMAGES_OFFERED_MAX = 64

/** Programs that belong to every fingerprint, where present. */
export const BASE_TOOLS = ['ar', 'as', 'c++', 'cc', 'ld', 'sh'] as const

/**
 * A host's userland: `base` covers os-release, arch, libc and BASE_TOOLS; `tools` has further programs
 * that derivations declared, `null` where the host lacks one.
 */
export const userlandSchema = <D extends z.ZodType<Digest>>(digest: D) =>
  z.object({ base: digest, tools: z.record(ToolName, digest.nullable()) })
export const UserlandWire = userlandSchema(DigestBytes)
export type Userland = z.infer<typeof UserlandWire>

const environmentSchema = <D extends z.ZodType<Digest>>(digest: D) =>
  z.object({
    system: System,
    isolation: Isolation,
    /** `debian-12`: what people read; no decision hangs on it. */
    label: text(64),
    base: digest,
    tools: z.record(ToolName, digest.nullable()),
    features: z.array(Feature).max(64),
    /** The machine's own system, where it runs programs of `system` by emulating it. */
    machine: System.optional(),
    /** Images that the node keeps ready; it fetches others when they are needed. */
    images: z
      .array(z.object({ name: ImageName, digest }))
      .max(IMAGES_OFFERED_MAX)
      .optional(),
  })
export const EnvironmentWire = environmentSchema(DigestBytes)
export const EnvironmentJson = environmentSchema(DigestHex)
export type Environment = z.infer<typeof EnvironmentWire>

/** What is known of a tool: its digest, null where the host lacks it, undefined while it is not probed. Tools may be named like members of every object. */
export function toolOf(userland: Pick<Userland, 'tools'>, tool: string): Digest | null | undefined {
  return Object.hasOwn(userland.tools, tool) ? userland.tools[tool] : undefined
}

/** The part of a userland that a derivation with `tools` depends on; undefined while one is not probed yet. */
export function userlandFor(userland: Userland, tools: readonly string[]): Userland | undefined {
  const known: Userland['tools'] = {}
  for (const tool of tools) {
    const hash = toolOf(userland, tool)
    if (hash === undefined) return undefined
    known[tool] = hash
  }
  return { base: userland.base, tools: known }
}

/** The fingerprint under which `tools` of this environment work; undefined while one is not probed yet. */
export function fingerprintOf(
  environment: Pick<Environment, 'base' | 'tools' | 'system'>,
  tools: readonly string[],
): Digest | undefined {
  const pairs: [string, Uint8Array | null][] = []
  for (const tool of tools) {
    const hash = toolOf(environment, tool)
    if (hash === undefined) return undefined
    pairs.push([tool, hash === null ? null : digestBytes(hash)])
  }
  return sha256(
    encodeCbor({
      v: 1,
      system: environment.system,
      base: digestBytes(environment.base),
      tools: pairs,
    }),
  )
}
