/** The environments of a node in few words: where its builds run, and whose images it can enter. Pure. */
import type { NodeView } from '../wire/api.ts'

type Environment = NodeView['environments'][number]

const byFeatures = (features: readonly string[]): string =>
  features.length === 0 ? '' : ` (${features.join(', ')})`

/** `x86_64-linux namespace debian-12 (native, secure)`, and all systems whose images are alike in one line. */
export function environmentTexts(environments: readonly Environment[]): string[] {
  const texts: string[] = []
  const images = new Map<string, { readonly first: Environment; readonly systems: string[] }>()
  for (const environment of environments) {
    const { system, isolation, label, features, machine } = environment
    if (isolation !== 'image') {
      texts.push(`${system} ${isolation} ${label}${byFeatures(features)}`)
      continue
    }
    const key = JSON.stringify([features, machine])
    const known = images.get(key)
    if (known === undefined) images.set(key, { first: environment, systems: [system] })
    else known.systems.push(system)
  }
  for (const { first, systems } of images.values())
    texts.push(
      `images of ${systems.join(', ')}${first.machine === undefined ? '' : ', emulated'}${byFeatures(first.features)}`,
    )
  const ready = new Set(
    environments.flatMap(({ images: kept = [] }) => kept.map(({ name }) => name)),
  )
  if (ready.size > 0) texts.push(`has at hand ${[...ready].join(', ')}`)
  return texts
}

/** `x86_64-linux,i686-linux +5 emulated`. */
export function systemsText(environments: readonly Environment[]): string {
  const native = new Set<string>()
  const emulated = new Set<string>()
  for (const { system, machine } of environments)
    (machine === undefined ? native : emulated).add(system)
  const more = [...emulated].filter((system) => !native.has(system))
  // The few are worth their names.
  if (more.length <= 2) return [...native, ...more].join(',')
  return `${[...native].join(',')} +${more.length} emulated`
}
