// Single keys for the page, unless a text is being typed or a modifier is held; and moving the focus.
export default {
  props: { keys: Array, target: String, turn: Number },
  emits: ["key"],
  watch: {
    turn: "move",
  },
  methods: {
    move() {
      this.$nextTick(() => document.getElementById(this.target)?.focus());
    },
  },
  mounted() {
    if (this.turn) this.move();
    this.listen = (event) => {
      const at = document.activeElement;
      const typing = at && (at.isContentEditable || ["TEXTAREA", "SELECT"].includes(at.tagName) || (at.tagName === "INPUT" && at.type !== "checkbox"));
      if (typing || event.repeat || event.ctrlKey || event.altKey || event.metaKey) return;
      const key = event.key.toLowerCase();
      if (!this.keys.includes(key)) return;
      event.preventDefault();
      this.$emit("key", key);
    };
    document.addEventListener("keydown", this.listen);
  },
  unmounted() {
    document.removeEventListener("keydown", this.listen);
  },
  render() {
    return null;
  },
};
