/** Requirements as they travel between the levels of a tree, and what a lease requires of whoever runs it. */
import { sha256 } from '../wire/digest.ts'
import type { Lease, RequirementWire } from '../wire/work-messages.ts'
import { makeRequirement, type Requirement } from './match.ts'

const names = new WeakMap<Requirement, string>()

/** The name of a class in messages: equal for equal requirements at every level. */
export function classOf(requirement: Requirement): string {
  const known = names.get(requirement)
  if (known !== undefined) return known
  const name = sha256(requirement.key).slice(0, 32)
  names.set(requirement, name)
  return name
}

export function requirementToWire({
  key: _key,
  bindings,
  places,
  ...parts
}: Requirement): RequirementWire {
  return {
    hosts: [...parts.hosts],
    isFetch: parts.isFetch,
    sealed: parts.sealed,
    features: [...parts.features],
    tools: [...parts.tools],
    cpusMin: parts.cpusMin,
    cpusMax: parts.cpusMax,
    memoryBytes: parts.memoryBytes,
    diskBytes: parts.diskBytes,
    bindings: [...bindings],
    ...(places.length === 0 ? {} : { places: [...places] }),
    ...(parts.machine === undefined ? {} : { machine: parts.machine }),
  }
}

export function requirementFromWire({
  bindings,
  places = [],
  ...parts
}: RequirementWire): Requirement {
  return makeRequirement({ ...parts, places }, new Map(bindings))
}

/** The action names its environment: whoever runs it must have just that. */
export function requirementOfLease(lease: Lease): Requirement {
  const { terms, userland, isolation, cpus, memoryBytes, diskBytes } = lease
  const isImage = isolation === 'image'
  const host = terms?.host ?? 'any'
  const parts = {
    hosts: [host],
    isFetch: userland === null && !isImage,
    sealed: isolation !== 'host',
    features: terms?.features ?? [],
    tools: Object.keys(userland?.tools ?? {}).toSorted(),
    cpusMin: terms?.cpusMin ?? cpus,
    cpusMax: terms?.cpusMax ?? cpus,
    memoryBytes,
    diskBytes,
    places: isImage ? [{ system: host, image: true }] : [],
    ...(terms?.machine === undefined ? {} : { machine: terms.machine }),
  }
  const isBound = userland !== null && terms !== undefined
  return makeRequirement(parts, new Map(isBound ? [[terms.host, userland]] : []))
}
