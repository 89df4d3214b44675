// Who asks, and about whose memories: kept until the tab is closed, and sent to this server alone.

const KEY = "mega.key";
const NAMESPACE = "mega.namespace";

export const session = {
  get key() { return sessionStorage.getItem(KEY) ?? ""; },
  set key(value) { keep(KEY, value); },
  get namespace() { return sessionStorage.getItem(NAMESPACE) ?? ""; },
  set namespace(value) { keep(NAMESPACE, value); },
};

function keep(name, value) {
  if (value) sessionStorage.setItem(name, value);
  else sessionStorage.removeItem(name);
}
